"""What stands in the place of a value: quotation marks around it, or a placeholder."""

from __future__ import annotations

QUOTED = "begins or ends with a quotation mark, as `docker --env-file` keeps it: leave it out"
PLACEHOLDER = 'is a placeholder such as "<YOUR_KEY>" or "{apikey}", or holds one: fill it in'

LEFTOVERS = [
    *(
        (quotes.format("planted"), QUOTED)
        for quotes in ('"{}"', "'{}'", "`{}`", '"{}', "{}'", "'\"{}\"'")
    ),
    *(
        (text, PLACEHOLDER)
        for text in (
            *("{apikey}", "{{ apikey }}", "${API_KEY}", "$API_KEY", "$(cat key)", "%API_KEY%"),
            *("<YOUR_KEY>", "<your API key>", "<>", "{}", "[API_KEY]", "***", "...", "None"),
            *("null", "undefined", "YOUR_API_KEY", "your-key", "YourApiKey", "your token here"),
            *("deleteThisAndPasteYourAPIKeyHere", '"{apikey}"', "'<YOUR_KEY>'"),
            "crn:v1:bluemix:public:quantum-computing:us-east:a/<account>:<guid>::",
            "crn:v1:bluemix:public:quantum-computing:us-east:a/{account}:x::",
        )
    ),
]
"""Texts, and why each is refused."""
