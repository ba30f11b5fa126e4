"""Configs of the stages, one file each; `base` has the default values.

A wheel contains this folder as `tf_mural.configs`, and in a clone `tf_mural.configs` reads it. The
files import each other relatively, so that they work under both names.
"""
