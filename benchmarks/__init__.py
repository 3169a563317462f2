"""Tables of time, memory and accuracy; nothing here asserts on a clock."""
