# Table 1's proportions over what there is
python3 - > tokens.jsonl <<'PY'
import json
for i, source in enumerate(["common_crawl"] * 67 + ["c4"] * 15 + ["wikipedia"] * 5):
    print(json.dumps({"id": str(i), "source": source, "tokens": [1, *range(3, 41), 2]}))
PY
llama mix --length 16 --dry-run tokens.jsonl 2> err; code=$?
grep -v ' MB peak$' err >&2
exit $code
