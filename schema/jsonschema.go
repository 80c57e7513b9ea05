package schema

import _ "embed"

// JSONSchema describes the canonical event, version 1, as a JSON Schema
// document (draft 2020-12) whose $id is [SchemaURN]. Whatever Normalize accepts
// becomes data that this schema accepts, so consumers in any language may
// validate with it or generate their types from it.
//
// It says less than Normalize in three places that JSON Schema cannot express:
// ids are limited in bytes and not in characters, roles are lower case in every
// script and not in ASCII alone, and the day of a timestamp exists in its month.
//
//go:embed interview.completed.v1.json
var JSONSchema []byte
