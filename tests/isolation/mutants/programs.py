"""Programs that tools start for one user show to the other, however their arguments are wrapped."""

import shutil

from .server import Refused, Variant


class WrappedProgram(Variant):
    """Program and arguments stand apart, and both in a member of the arguments; a line of shell is no program."""

    classes = ("state",)
    schemas = {
        "start": {
            "params": {
                "type": "object",
                "properties": {
                    "command": {"type": "string", "description": "Program to start"},
                    "args": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["command"],
            }
        }
    }

    def __init__(self, leaky):
        super().__init__(leaky)
        self.started = []

    def start(self, params):
        if shutil.which(params["command"]) is None:
            return f"error: command not found: {params['command']}"
        if self.leaky:
            self.started.append(" ".join([params["command"], *params.get("args", [])]))
        return "started"

    def running(self):
        return "\n".join(self.started) or "none"


class Templates(Variant):
    """Takes one of several templates, which only its refusal lists: one on a line, not in English."""

    classes = ("state",)
    known = ("archive", "libre")

    def __init__(self, leaky):
        super().__init__(leaky)
        self.made = []

    def create_follow_up(self, title, template):
        if template not in self.known:
            lines = "\n".join(f"  {name:<10} -- suivi\n{'':15}champs: a, b" for name in self.known)
            return f"Modèle inconnu: '{template}'\n\nModèles disponibles:\n{lines}"
        if self.leaky:
            self.made.append(title)
        return "créé"

    def list_follow_ups(self):
        return "\n".join(self.made) or "aucun"

    def finish_follow_up(self, title):
        if title not in self.made:
            raise Refused("introuvable")
        return "terminé"
