"""A newsletter: one message for each recipient, each delivered as a mail by whichever worker gets it."""
