"""The licence API: what the vendor's clients and dashboard talk to on every host.

It owns the licences' tables and the HTTP endpoints in front of them, and is the first user of
`syncd`, whose public names are all it knows of replication. It must not decide what a host may
answer while it could be behind its peers: it asks the replica, and then says that it does not know.
"""
