"""Parity with the reference code of PAM: see README.md in this folder."""
