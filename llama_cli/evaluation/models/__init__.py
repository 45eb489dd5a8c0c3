"""What answers the requests of an evaluation: each is a function from Requests to Responses.

    local    a checkpoint of ours, or a directory in Meta's or Hugging Face's layout
    openai   an endpoint that speaks OpenAI's completions
    command  a program that reads Requests and writes Responses, one JSON line each

`answering` is what they share: requests are answered in groups, in order; what was answered
before is taken from the cache (`store`); and of several processes each answers its groups.
"""

from collections.abc import Callable, Iterable, Iterator

from llama_cli.evaluation.request import Request, Response

Model = Callable[[Iterable[Request]], Iterator[Response]]  # responses in the requests' order
