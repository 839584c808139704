"""The same services as tools of the Model Context Protocol, for an agent that works on its user's tasks."""
