// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "key.h"
#include "row.h"

unsigned int row_width(unsigned int type)
{
	switch (type) {
	case EXDB_BOOL:
		return 1;
	case EXDB_INT32:
	case EXDB_DATE:
		return 4;
	case EXDB_INT64:
	case EXDB_FLOAT64:
	case EXDB_TIMESTAMP:
	case EXDB_DECIMAL:
		return 8;
	default:
		return 0;
	}
}

static bool is_in_value(const struct exdb_layout *layout, const struct exdb_column *columns,
			unsigned int i, unsigned int version)
{
	if (layout->columns[i].in_key || columns[i].added > version)
		return false;
	return !columns[i].dropped || columns[i].dropped > version;
}

static void place_columns(struct exdb_layout *layout, const struct exdb_column *columns,
			  unsigned int version)
{
	struct row_shape *shape = &layout->shapes[version];
	unsigned int i, offset, bit = 8;

	for (i = 0; i < layout->nr_columns; i++) {
		const bool there = is_in_value(layout, columns, i, version);

		shape->places[i].bit = there ? bit++ : NO_PLACE;
	}
	offset = (bit + 7) / 8;
	for (i = 0; i < layout->nr_columns; i++) {
		const unsigned int width = row_width(columns[i].type);

		if (shape->places[i].bit == NO_PLACE)
			continue;
		shape->places[i].place = width ? offset : shape->nr_text++;
		offset += width;
	}
	shape->ends = offset;
}

static unsigned int key_width(const struct exdb_layout *layout)
{
	unsigned int k, width, total = 0;

	for (k = 0; k < layout->nr_key; k++, total += width) {
		width = row_width(layout->columns[layout->key[k]].type);
		if (!width)
			return 0;
	}
	return total;
}

struct exdb_layout *exdb_layout_new(uint32_t n, const struct exdb_column *columns,
				    uint32_t key_columns, const uint32_t *key, uint32_t version,
				    uint64_t schema)
{
	struct exdb_layout *layout;
	unsigned int i, vectors = 0;

	if (!n || n > EXDB_COLUMNS_MAX || !key_columns || key_columns > n ||
	    version > EXDB_VERSION_MAX)
		return NULL;
	layout = calloc(1, sizeof(*layout) + (version + 1) * sizeof(*layout->shapes));
	if (!layout)
		return NULL;
	layout->schema = schema;
	layout->version = version;
	layout->nr_columns = n;
	layout->nr_key = key_columns;
	for (i = 0; i < n; i++) {
		layout->columns[i].type = columns[i].type;
		layout->columns[i].vector = columns[i].dropped ? NO_PLACE : vectors++;
	}
	for (i = 0; i < key_columns; i++) {
		layout->key[i] = key[i];
		layout->columns[key[i]].in_key = true;
	}
	layout->key_width = key_width(layout);
	for (i = 0; i <= version; i++)
		place_columns(layout, columns, i);
	if (layout->shapes[version].ends + 2 * layout->shapes[version].nr_text <= EXDB_ROW_MAX)
		return layout;
	free(layout);
	return NULL;
}

int exdb_layout_add_index(struct exdb_layout *layout, uint32_t tree, bool unique, uint32_t n,
			  const uint32_t *columns)
{
	struct row_index *index = &layout->indexes[layout->nr_indexes];
	unsigned int i;

	if (layout->nr_indexes == EXDB_INDEXES_MAX || !n || n > EXDB_INDEX_COLUMNS_MAX)
		return -E2BIG;
	*index = (struct row_index){ .tree = tree, .unique = unique, .nr_columns = n };
	for (i = 0; i < n; i++)
		index->columns[i] = columns[i];
	layout->nr_indexes++;
	return 0;
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
		const struct row_column *column = &layout->columns[layout->key[k]];
		const struct exdb_vector *v = &columns[column->vector];
		const uint8_t *text;

		switch (column->type) {
		case EXDB_BOOL:
			ret = exdb_key_put_byte(key, ((const uint8_t *)v->values)[i]);
			break;
		case EXDB_INT32:
		case EXDB_DATE:
			ret = exdb_key_put_int32(key, ((const int32_t *)v->values)[i]);
			break;
		case EXDB_INT64:
		case EXDB_TIMESTAMP:
		case EXDB_DECIMAL:
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

/* A text at the end of the texts; -EMSGSIZE if it is too long. */
static int put_text(const struct exdb_vector *v, uint64_t i, uint8_t *value, unsigned int *end)
{
	unsigned int length;
	const uint8_t *text = text_of(v, i, &length);

	if (length > EXDB_ROW_MAX - *end)
		return -EMSGSIZE;
	memcpy(value + *end, text, length);
	*end += length;
	return 0;
}

int row_encode(const struct exdb_layout *layout, const struct exdb_vector *columns, uint64_t i,
	       struct exdb_key *key, uint8_t *value, unsigned int *value_length)
{
	const struct row_shape *shape = &layout->shapes[layout->version];
	const unsigned int texts = shape->ends + 2 * shape->nr_text;
	unsigned int c, end = texts;
	int ret = row_encode_key(layout, columns, i, key);

	if (ret)
		return ret;
	memset(value, 0, texts);
	value[0] = layout->version;
	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_place *place = &shape->places[c];
		const unsigned int width = row_width(layout->columns[c].type);
		const struct exdb_vector *v;
		bool valid;

		if (place->bit == NO_PLACE)
			continue;
		v = &columns[layout->columns[c].vector];
		valid = !v->valid || v->valid[i];
		if (!valid)
			value[place->bit / 8] |= 1u << place->bit % 8;
		if (valid && width)
			memcpy(value + place->place, (const uint8_t *)v->values + i * width, width);
		else if (valid && put_text(v, i, value, &end))
			return -EMSGSIZE;
		if (!width) {
			const uint16_t e = end - texts;

			memcpy(value + shape->ends + 2 * place->place, &e, sizeof(e));
		}
	}
	*value_length = end;
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
		const struct row_column *column = &layout->columns[layout->key[k]];
		const unsigned int width = row_width(column->type);
		struct exdb_vector *v = &columns[column->vector];

		if (width) {
			if (v->values)
				key_get_fixed(column->type, at, (uint8_t *)v->values + i * width);
			at += width;
			continue;
		}
		length = key_get_text(&at, text);
		if (v->values && add_text(v, i, text, length))
			return 1;
	}
	return 0;
}

const uint8_t *row_skip_part(unsigned int type, const uint8_t *at, const uint8_t *end)
{
	const unsigned int width = row_width(type);

	if (width)
		return end - at < width ? NULL : at + width;
	while (end - at >= 2 && (at[0] || at[1]))
		at += at[0] ? 1 : 2;
	return end - at < 2 ? NULL : at + 2;
}

static bool has_sound_key(const struct exdb_layout *layout, const struct btree_row *row)
{
	const uint8_t *at = row->key, *end = at + row->key_length;
	unsigned int k;

	for (k = 0; k < layout->nr_key && at; k++)
		at = row_skip_part(layout->columns[layout->key[k]].type, at, end);
	return at == end;
}

int row_shape(const struct exdb_layout *layout, const struct btree_row *row,
	      const struct row_shape **shape)
{
	if (!row->value_length)
		return -EUCLEAN;
	if (row->value[0] > layout->version)
		return -ESTALE;
	*shape = &layout->shapes[row->value[0]];
	return has_sound_key(layout, row) && row_has_sound_texts(*shape, row) ? 0 : -EUCLEAN;
}

/* One that is not in the key; the row may be older than the column. */
static int decode_column(const struct row_shape *shape, const struct row_place *place,
			 unsigned int width, const uint8_t *value, struct exdb_vector *v,
			 uint64_t i)
{
	const bool there = place->bit != NO_PLACE;
	const uint8_t *text;
	unsigned int length;

	if (v->valid)
		v->valid[i] = there && !(value[place->bit / 8] >> place->bit % 8 & 1);
	if (!there && width)
		memset((uint8_t *)v->values + i * width, 0, width);
	else if (!there)
		return add_text(v, i, value, 0);
	else if (width)
		memcpy((uint8_t *)v->values + i * width, value + place->place, width);
	else {
		text = row_text(shape, value, place->place, &length);
		return add_text(v, i, text, length);
	}
	return 0;
}

int row_decode(const struct exdb_layout *layout, const struct btree_row *row,
	       struct exdb_vector *columns, uint64_t i)
{
	const struct row_shape *shape;
	unsigned int c;
	int ret = row_shape(layout, row, &shape);

	if (ret)
		return ret;
	if (decode_key(layout, row->key, columns, i))
		return 1;
	for (c = 0; c < layout->nr_columns; c++) {
		const struct row_column *column = &layout->columns[c];
		struct exdb_vector *v;

		if (column->vector == NO_PLACE)
			continue;
		v = &columns[column->vector];
		if (v->values && column->in_key && v->valid)
			v->valid[i] = 1;
		if (!v->values || column->in_key)
			continue;
		if (decode_column(shape, &shape->places[c], row_width(column->type), row->value, v,
				  i))
			return 1;
	}
	return 0;
}
