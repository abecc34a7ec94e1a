"""The credential witness: stands in for every host that a server under check may reach.

The sandbox's own name service and a redirect of the egress gateway lead all its connections here;
a throw-away authority makes certificates for whatever name is asked. The witness notes which planted
credential came with which request and answers something plausible. It knows no real service.
"""
