"""stub"""

from mcphub.spawn.egress.events import EgressEvent


class Network:
    own = True

    def enter(self, with_user):
        return []

    async def close(self):
        pass


class EgressGateway:
    def __init__(self, on_egress, uid=None):
        pass

    async def register(self, i, spec):
        return Network()

    async def aclose(self):
        pass
