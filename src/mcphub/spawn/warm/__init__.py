"""Node.js servers in processes that have loaded their packages before they know their user."""
