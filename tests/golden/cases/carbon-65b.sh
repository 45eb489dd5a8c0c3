llama carbon --gpu-hours 1022362
