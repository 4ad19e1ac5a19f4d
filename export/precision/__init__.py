"""A finished fp32 graph in fp16 or int8 that still decides as PyTorch does, or a refusal.

Owns: conversion, the search, the gate, advice. Does not own: what a target computes in (targets).
"""
