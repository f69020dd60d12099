"""Callbacks for frameworks that know the names of their loss terms; each module needs its package.

Import a module by its name, `gradpath.probes.integrations.lightning`: nothing here does.
"""
