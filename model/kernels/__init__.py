"""The inner loops: attention, products and what lies between them, by device."""
