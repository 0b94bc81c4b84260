"""The rules of the contract, a module for each group. Each method is one rule; its docstring is the promise."""
