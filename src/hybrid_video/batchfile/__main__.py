"""`python -m hybrid_video.batchfile` prints the JSON Schema of batch files, as kept in `schemas/batch.schema.json`."""

import json
import sys

from hybrid_video.batchfile.schema import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
