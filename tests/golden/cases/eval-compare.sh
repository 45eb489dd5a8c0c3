# 2,000 rows, of which 60 flip one way and 20 the other, and 3 that are in one run alone
for n in $(seq 2003); do echo "$n"; done | awk '{
  a = $1 <= 1500; b = $1 <= 20 ? 0 : $1 > 1940 ? 1 : a
  row = "{\"task\":\"piqa\",\"id\":\"%d\",\"values\":{\"accuracy\":%d},\"model\":\"%s\"}\n"
  if ($1 <= 2000) printf row, $1, a, "before" > "before.jsonl"
  printf row, $1, b, "after" > "after.jsonl"
}'
llama eval compare before.jsonl after.jsonl 2> table
grep -v ' CPU, ' table
llama eval compare before.jsonl - < before.jsonl 2>&1 > same.jsonl | grep 'same'
