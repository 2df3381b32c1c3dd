"""
How the fleet moves from one release to another as one transaction: pure, like all of the core.

:mod:`decision` is the record, :mod:`strategy` its knobs, :mod:`fleet` what a coordinator sees, :mod:`barrier` the
questions asked of one host, :mod:`advance` the table of phases, :mod:`commands` what operators write, and
:mod:`change` what any of them comes to in Consul.
"""
