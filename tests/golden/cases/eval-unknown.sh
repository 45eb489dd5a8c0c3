llama eval piqqa --data .
