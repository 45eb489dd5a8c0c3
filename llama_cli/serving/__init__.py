"""Completions over HTTP in OpenAI's form: one thread runs the model, an event loop the requests.

    socket ─▶ server ─▶ app ─▶ calls ─▶ worker ─▶ inference.batch
                         ▲                 │
                         └──── answers ◀───┘

All rows of all requests share one batch (`worker`), so a request joins while others run, and
leaves it the moment its client goes away. Built on uvicorn and Starlette: `pip install
'llama[serve]'`.
"""
