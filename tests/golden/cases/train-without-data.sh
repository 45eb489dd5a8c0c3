llama train
