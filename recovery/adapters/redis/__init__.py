"""Redis 6.2 and later (and Valkey): under guard, backed up and restored.

What `workers/guard.py` builds::

    server = RedisServer(host, port, RedisLogin(user=None, password="...", tls=None))
    store = GuardedRedis(server, state_folder, recipients=["age1..."], group="shop",
                         peers={"eu-west-1": Upstream("eu-west-1", host, port)})

It is a GuardedStore, Tended (the guard calls ``tend`` between orders) and Catching.

``redis.conf`` says ``replicaof 127.0.0.1 1``: whatever starts the server gets a replica of nowhere, which keeps its
data and refuses writes. The guard runs on the server's host: it ends a frozen server by the port it listens at.
``state_folder`` is the region's (below ``guards.state_folder``); what it holds is named after ``group``.

Recovery points are ``RedisDumps(server)`` (``recovery.py``), the port ``RedisRecovery``. What its user may do there
(ACL): for a backup ``+psync +replconf +ping +info`` and, from 7.0 on, ``+function|list``, on the replicas too; for a
restore by replication also ``+get +set +del +multi +exec +flushall +config|get +config|set +replicaof +function`` and
the keys ``~recovery-restoring ~recovery-restored``; key by key ``+restore +select`` instead of ``+config +replicaof``,
and all keys.
"""
