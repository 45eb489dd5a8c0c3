cat > scores.jsonl <<'END'
{"task":"piqa","metric":"accuracy","value":60.0,"stderr":1.1426844940,"shots":0,"normalization":"characters","reported":{},"group":"","rows":1838,"protocol":{"split":"validation","bos":true},"model":"runs/first"}
{"task":"nq_open","metric":"exact_match","value":16.0,"stderr":0.8629,"shots":5,"normalization":"exact match","reported":{},"group":"","rows":1805,"protocol":{},"model":"runs/first"}
{"task":"bits_per_byte","metric":"bits_per_byte","value":1.25,"stderr":0.01,"shots":0,"normalization":"bytes","reported":{},"group":"","rows":100,"protocol":{},"model":"runs/first"}
END
llama eval report -q scores.jsonl --markdown report.md
sed -n 5,7p report.md
