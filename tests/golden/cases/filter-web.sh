# a paragraph that an earlier page had goes; a page in another language drops
python3 - > in.jsonl <<'PY'
import json
own = "The river that runs through the middle of the old town freezes in most winters, and children skate on it. "
shared = "Subscribe to our newsletter and never miss a story about the places where we live and the people we meet there."
german = "Der Fluss, der durch die Mitte der alten Stadt fliesst, friert in den meisten Wintern zu, und Kinder laufen darauf. " * 4
def row(i, text): print(json.dumps({"id": i, "text": text, "source": "common_crawl", "metadata": {}}))
row("one", own * 4 + "\n" + shared)
row("two", own.replace("river", "canal") * 4 + "\n" + shared)
row("drei", german)
PY
llama filter in.jsonl 2> err; code=$?
grep -v ' MB peak$' err >&2
exit $code
