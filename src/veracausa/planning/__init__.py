"""What a call will cost, before it is made: token-layers, passes, seconds at this machine's speed, memory."""
