"""The device process and its supervisor.

Parent side (the HTTP process): `cells`, `groups`, `channel`, `supervisor`; none of them imports torch.
Child side (one process per device, `python -m app.worker`): `process`, `engine`. Both sides: `messages`, `cells`.
"""
