"""Configs of the stages, one file per stage; `base` contains the default values.

In a wheel, this folder is the package `tf_mural.configs`. In a clone, this folder is the package
`configs`, and `tf_mural.configs` loads its files from this folder. Relative imports between the
files work under both names of the package.
"""
