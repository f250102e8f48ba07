#!/usr/bin/env python3
"""What random walks over the masks of a schema spell is valid JSON and matches the schema, by the jsonschema package."""
import json
import os
import subprocess
import unittest

import jsonschema

SOURCE = os.environ.get("SHOAL_SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.environ.get("SHOAL_BUILD_DIR") or os.path.join(SOURCE, "build")
SCHEMAS = os.path.join(SOURCE, "tests", "text", "data", "schemas.json")
WALKS = 12


class Schemas(unittest.TestCase):
    def test_every_answer_is_valid(self):
        with open(SCHEMAS, encoding="utf-8") as f:
            rows = json.load(f)
        self.assertGreaterEqual(len(rows), 50)
        done = subprocess.run(
            [os.path.join(BUILD, "grammar_walk"), SCHEMAS, str(WALKS)], capture_output=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-3000:])
        answers = {i: 0 for i in range(len(rows))}
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            row = rows[entry["schema"]]
            with self.subTest(row["name"], answer=entry.get("answer")):
                self.assertNotIn("error", entry)
                value = json.loads(entry["answer"])
                validator = jsonschema.validators.validator_for(row["schema"], jsonschema.Draft202012Validator)
                validator(row["schema"], format_checker=validator.FORMAT_CHECKER).validate(value)
                answers[entry["schema"]] += 1
        for i, count in answers.items():
            with self.subTest(rows[i]["name"]):
                self.assertGreater(count, 0, "no walk came to an end")


if __name__ == "__main__":
    unittest.main()
