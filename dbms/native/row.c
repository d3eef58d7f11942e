// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "key.h"
#include "row.h"

static unsigned int width_of(unsigned int type)
{
	switch (type) {
	case EXDB_INT32:
	case EXDB_DATE:
		return 4;
	case EXDB_INT64:
	case EXDB_FLOAT64:
	case EXDB_TIMESTAMP:
		return 8;
	default:
		return 0;
	}
}

static void place_columns(struct exdb_layout *layout)
{
	unsigned int i, nr_value = layout->nr_columns - layout->nr_key;
	unsigned int offset = (nr_value + 7) / 8, bit = 0;

	for (i = 0; i < layout->nr_columns; i++) {
		struct row_column *column = &layout->columns[i];

		if (column->in_key)
			continue;
		column->bit = bit++;
		if (column->type == EXDB_TEXT) {
			column->place = layout->nr_text++;
			continue;
		}
		column->place = offset;
		offset += width_of(column->type);
	}
	layout->ends = offset;
}

struct exdb_layout *exdb_layout_new(uint32_t columns, const uint8_t *types, uint32_t key_columns,
				    const uint32_t *key)
{
	struct exdb_layout *layout;
	unsigned int i;

	if (!columns || columns > COLUMNS_MAX || !key_columns || key_columns > columns)
		return NULL;
	layout = calloc(1, sizeof(*layout));
	if (!layout)
		return NULL;
	layout->nr_columns = columns;
	layout->nr_key = key_columns;
	for (i = 0; i < columns; i++)
		layout->columns[i].type = types[i];
	for (i = 0; i < key_columns; i++) {
		layout->key[i] = key[i];
		layout->columns[key[i]].in_key = true;
	}
	place_columns(layout);
	if (layout->ends + 2 * layout->nr_text <= EXDB_ROW_MAX)
		return layout;
	free(layout);
	return NULL;
}

void exdb_layout_free(struct exdb_layout *layout)
{
	free(layout);
}

static const uint8_t *text_of(const struct exdb_vector *v, uint64_t i, unsigned int *length)
{
	*length = v->offsets[i + 1] - v->offsets[i];
	return (const uint8_t *)v->values + v->offsets[i];
}

int row_encode_key(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
		   struct exdb_key *key)
{
	unsigned int k, length;
	int ret = 0;

	key->length = 0;
	for (k = 0; k < layout->nr_key && !ret; k++) {
		const struct exdb_vector *v = &columns[layout->key[k]];
		const uint8_t *text;

		switch (layout->columns[layout->key[k]].type) {
		case EXDB_INT32:
		case EXDB_DATE:
			ret = exdb_key_put_int32(key, ((const int32_t *)v->values)[i]);
			break;
		case EXDB_INT64:
		case EXDB_TIMESTAMP:
			ret = exdb_key_put_int64(key, ((const int64_t *)v->values)[i]);
			break;
		case EXDB_FLOAT64:
			ret = exdb_key_put_float64(key, ((const double *)v->values)[i]);
			break;
		default:
			text = text_of(v, i, &length);
			ret = exdb_key_put_text(key, text, length);
		}
	}
	return ret;
}

int row_encode(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
	       struct exdb_key *key, uint8_t *value, unsigned int *value_length)
{
	const unsigned int texts = layout->ends + 2 * layout->nr_text;
	unsigned int c, length, end = 0;
	int ret = row_encode_key(layout, columns, i, key);

	if (ret)
		return ret;
	memset(value, 0, texts);
	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_column *column = &layout->columns[c];
		const struct exdb_vector *v = &columns[c];
		const bool valid = !v->valid || v->valid[i];
		const unsigned int width = width_of(column->type);

		if (column->in_key)
			continue;
		if (!valid)
			value[column->bit / 8] |= 1u << column->bit % 8;
		if (valid && width) {
			memcpy(value + column->place, (const uint8_t *)v->values + i * width,
			       width);
		} else if (valid) {
			const uint8_t *text = text_of(v, i, &length);

			if (length > EXDB_ROW_MAX - texts - end)
				return -EMSGSIZE;
			memcpy(value + texts + end, text, length);
			end += length;
		}
		if (!width) {
			const uint16_t e = end;

			memcpy(value + layout->ends + 2 * column->place, &e, sizeof(e));
		}
	}
	*value_length = texts + end;
	return key->length + *value_length > EXDB_ROW_MAX ? -EMSGSIZE : 0;
}

static int add_text(struct exdb_vector *v, uint64_t i, const uint8_t *text, unsigned int length)
{
	unsigned int from = v->offsets[i];

	if (from + (uint64_t)length > v->capacity)
		return 1;
	memcpy((uint8_t *)v->values + from, text, length);
	v->offsets[i + 1] = from + length;
	return 0;
}

static int decode_key(const struct exdb_layout *layout, const uint8_t *at,
		      struct exdb_vector *columns, uint64_t i)
{
	uint8_t text[EXDB_KEY_MAX];
	unsigned int k, length;

	for (k = 0; k < layout->nr_key; k++) {
		struct exdb_vector *v = &columns[layout->key[k]];
		union {
			int32_t int32;
			int64_t int64;
			double float64;
		} value;

		switch (layout->columns[layout->key[k]].type) {
		case EXDB_INT32:
		case EXDB_DATE:
			value.int32 = key_get_int32(&at);
			break;
		case EXDB_INT64:
		case EXDB_TIMESTAMP:
			value.int64 = key_get_int64(&at);
			break;
		case EXDB_FLOAT64:
			value.float64 = key_get_float64(&at);
			break;
		default:
			length = key_get_text(&at, text);
			if (v->values && add_text(v, i, text, length))
				return 1;
			continue;
		}
		if (v->values) {
			unsigned int width = width_of(layout->columns[layout->key[k]].type);

			memcpy((uint8_t *)v->values + i * width, &value, width);
		}
	}
	return 0;
}

static int decode_text(const struct exdb_layout *layout, const uint8_t *value, unsigned int place,
		       struct exdb_vector *v, uint64_t i)
{
	const uint8_t *ends = value + layout->ends;
	const uint8_t *texts = ends + 2 * layout->nr_text;
	uint16_t from = 0, to;

	if (place)
		memcpy(&from, ends + 2 * (place - 1), sizeof(from));
	memcpy(&to, ends + 2 * place, sizeof(to));
	return add_text(v, i, texts + from, to - from);
}

int row_decode(const struct exdb_layout *layout, const struct btree_row *row,
	       struct exdb_vector *columns, uint64_t i)
{
	const uint8_t *value = row->value;
	unsigned int c;

	if (decode_key(layout, row->key, columns, i))
		return 1;
	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_column *column = &layout->columns[c];
		const unsigned int width = width_of(column->type);
		struct exdb_vector *v = &columns[c];

		if (!v->values)
			continue;
		if (v->valid)
			v->valid[i] = column->in_key ||
				      !(value[column->bit / 8] >> column->bit % 8 & 1);
		if (column->in_key)
			continue;
		if (width)
			memcpy((uint8_t *)v->values + i * width, value + column->place, width);
		else if (decode_text(layout, value, column->place, v, i))
			return 1;
	}
	return 0;
}
