"""How front processes and the device process talk: messages, their encoding, and the two ends of the socket."""
