"""Reading a trained model: what it says of atoms, space, elements and its own filters (arXiv:1806.10349).

Functions take a model and a molecule and return arrays; `plots` and `report` draw them.
"""
