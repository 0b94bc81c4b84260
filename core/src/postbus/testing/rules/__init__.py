"""The rules of the contract, a module for each group. Each method is one rule; its docstring is the promise.

Its id is of its group and a number, and never of another rule: see `postbus.testing.promises`.
"""
