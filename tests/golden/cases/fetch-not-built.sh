llama fetch wikipedia dump.xml.bz2
