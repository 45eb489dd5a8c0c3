"""What a layout costs, and later how a model is spread over devices."""
