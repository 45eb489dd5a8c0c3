llama fetch githb src/
