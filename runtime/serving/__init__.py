"""An HTTP server for several targets over one draft, in the shape of OpenAI's interface."""
