"""What ablated models answer: greedy generation with units replaced, task accuracy, and its tests."""
