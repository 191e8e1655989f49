"""How tasks and evaluators are found and named: the registry, what a class must be, the source it is made of, the first
version of a new one."""
