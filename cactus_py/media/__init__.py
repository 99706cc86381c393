"""Sounds and pictures as what a model computes on."""
