"""Contracts: what must hold of every model that numbers are given for."""
