"""Attention, transformer layers, heads, transport, boxes: parts that know nothing of vision or language."""
