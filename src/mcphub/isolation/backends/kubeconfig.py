"""A kubeconfig with two clusters that do not exist, for servers that are given one."""

import json

from mcphub.isolation.credentials import Credential

CONTEXTS = ("east", "west")


def kubeconfig(credential: Credential, ca_file: str) -> str:
    """Return the file's text: two contexts, both with the credential as token (JSON is YAML)."""
    clusters = [
        {
            "name": name,
            "cluster": {
                "server": f"https://{name}.clusters.example.com",
                "certificate-authority": ca_file,
            },
        }
        for name in CONTEXTS
    ]
    contexts = [
        {"name": name, "context": {"cluster": name, "user": "someone", "namespace": "default"}}
        for name in CONTEXTS
    ]
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": clusters,
        "contexts": contexts,
        "current-context": CONTEXTS[0],
        "users": [{"name": "someone", "user": {"token": credential.value}}],
    }
    return json.dumps(value, indent=1)
