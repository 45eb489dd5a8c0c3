llama carbon --paper
