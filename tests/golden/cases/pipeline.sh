# text to sequences in one pipe
mkdir notes
printf 'The quick brown fox jumps over the lazy dog.\n' > notes/fox.txt
printf '# Numbers\n\n2026 is split into digits.\n' > notes/numbers.md
llama fetch -q files notes | llama filter -q | llama tokenize -q | llama mix --length 8 2> err; code=$?
grep -v ' MB peak$' err >&2
exit $code
