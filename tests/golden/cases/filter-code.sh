# a licence header goes, a line too long drops its file, the second copy drops, a bad line is named
python3 - > in.jsonl <<'PY'
import json
def row(i, text): print(json.dumps({"id": i, "text": text, "source": "github", "metadata": {"language": {"py": "Python", "c": "C"}.get(i.split(".")[1])}}))
row("a.py", "#!/usr/bin/env python3\n# Copyright 2020 Someone\n# Licensed under the MIT license.\n\nimport os\n\nprint(os.name)\n")
row("long.py", "x = '" + "a" * 1000 + "'\n")
row("b.c", "#include <stdio.h>\nint main(void) { return 0; }\n")
row("copy.c", "#include <stdio.h>\nint main(void) { return 0; }\n")
row("noise.txt", "#### ---- ####\n" * 9)
print("{oops")
PY
llama filter in.jsonl --rejects dropped.jsonl 2> err; code=$?
grep -v ' MB peak$' err >&2
echo '--- dropped'
python3 -c 'import json; [print(r["id"], r["rejected"]) for r in map(json.loads, open("dropped.jsonl"))]'
exit $code
