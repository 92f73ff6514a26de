"""JetStream under guard: streams that are sources in the owner's region and mirrors elsewhere.

What `workers/guard.py` builds::

    server = NatsServer(host, port, NatsLogin(user="recovery", password="...", tls=None))
    store = GuardedStreams(server, streams, fence_file=folder / "nats-shop.conf", state_folder=folder,
                           recipients=["age1..."], group="shop",
                           peers={"eu-west-1": Upstream(...)})     # a GuardedStore and a Tended

``fence_file`` is included by the NATS server's configuration, inside ``authorization`` or inside the group's account::

    authorization {
      include "fence.conf"          # default_permissions: nothing may be published, at rest
      users: [
        {user: shop, password: ...}                 # the application: no permissions of its own
        {user: recovery-probe, password: $SAME}     # as the application: by it the fence is tried
        {user: recovery, password: $SAME, permissions: {publish: ">", subscribe: ">"}}
        {user: leaf, password: ..., permissions: {publish: ["$JS.>", "$JSC.>"], subscribe: ["$JS.>", "$JSC.>"]}}
      ]
    }

(NATS reads the path of an include as one below the folder of the file that includes it: a link helps.) The file's text
is ``FENCED`` of ``recovery.adapters.nats.fence``, which stands on the disk but for the moment of a promotion.
The server must have a JetStream domain (``jetstream { domain: ... }``) and a leaf node connection to the other region.

Recovery points of streams need none of that, and no domain::

    recovery = JetStreamSnapshots(server)                      # a JetStreamRecovery
    async with recovery.source(["ORDERS"]) as source:          # None: all streams of the account
        await write_point(source, ..., at_once=source.at_once)
    await recovery.restore(stored_stream(text, part), archive, StreamRestoreOptions(restore_id))
"""
