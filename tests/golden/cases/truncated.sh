# a cut file is an error, and no output appears
python3 -c 'for i in range(20000): print("{\"id\":\"%d\",\"text\":\"line %d of many\",\"source\":\"files\"}" % (i, i))' | gzip -cn | head -c 30000 > in.gz
llama filter in.gz -o out.jsonl; code=$?
ls
exit $code
