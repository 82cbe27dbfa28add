"""What losses cost: time and memory of forward and backward pass, beside other libraries'."""
