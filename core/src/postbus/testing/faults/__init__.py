"""Workers and producers that die amid everything they do, as real processes, and a ledger that tells what was lost.

`postbus.testing.TransportFaults` is what a plugin's author subclasses. It does what is done here: `kills` and
`restarts` each run producers and workers on a `stage`, and return an `account` of what became of every message.
"""
