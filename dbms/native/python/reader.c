// SPDX-License-Identifier: MIT
/*
 * exmapdb._reader: single rows for Python, in one call and without a detour.
 *
 * A Reader looks only at pages that are resident and that nobody has latched, as a transaction sees them
 * if one is given, whose owner lets nobody else use it meanwhile.  It does so on a channel that the
 * holder of the GIL has for himself, so that it neither lends a worker nor lets go of the GIL.
 * If it is given a worker it waits and reads from the disk, without the GIL and with memory of its own.
 * In all other cases, and for every value that it does not know, it returns NotImplemented, and
 * who called it goes the long way, whose conversions are the ones that count.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <structmember.h>

#include "../key.h"

typedef int (*get_fn)(struct exdb_worker *w, struct exdb_txn *txn,
		      const struct exdb_layout *layout, uint32_t tree, const struct exdb_key *key,
		      struct exdb_vector *columns);

/* What is open until the database is closed: the native core's function, and its channel. */
struct channel {
	PyObject_HEAD
	get_fn get;
	struct exdb_worker *worker;
};

/* A column of the table; @convert is None, or makes the value of what is stored. */
struct column {
	PyObject *name;
	PyObject *convert;
	unsigned long type;
};

/**
 * struct reader - reads rows of one table
 * @call: for Python's vectorcall
 * @channel: see there
 * @layout: of the native core
 * @owner: keeps it
 * @tree: with the table's rows
 * @key_types: enum exdb_type of each column of the key
 * @nr_columns: length of @columns and @vectors
 * @columns: in their order
 * @vectors: of one row each, into @memory, for whoever has the GIL
 * @memory: of the values
 * @room: bytes of it
 */
struct reader {
	PyObject_HEAD
	vectorcallfunc call;
	struct channel *channel;
	const struct exdb_layout *layout;
	PyObject *owner;
	uint32_t tree;
	PyObject *key_types;
	Py_ssize_t nr_columns;
	struct column *columns;
	struct exdb_vector *vectors;
	uint8_t *memory;
	size_t room;
};

static int has_text(unsigned long type)
{
	return type == EXDB_TEXT || type == EXDB_BYTES;
}

static int channel_init(struct channel *self, PyObject *args, PyObject *kwargs)
{
	unsigned long long get, worker;

	(void)kwargs;
	if (!PyArg_ParseTuple(args, "KK", &get, &worker))
		return -1;
	self->get = (get_fn)(uintptr_t)get;
	self->worker = (struct exdb_worker *)(uintptr_t)worker;
	return 0;
}

static PyObject *channel_close(struct channel *self, PyObject *none)
{
	(void)none;
	self->worker = NULL;
	Py_RETURN_NONE;
}

static PyMethodDef channel_methods[] = {
	{ "close", (PyCFunction)channel_close, METH_NOARGS, "Nothing is read any more." },
	{ 0 },
};

static PyTypeObject channel_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "exmapdb._reader.Channel",
	.tp_doc = "A way into an open database: the addresses of exdb_table_get and of a channel.",
	.tp_basicsize = sizeof(struct channel),
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = PyType_GenericNew,
	.tp_init = (initproc)channel_init,
	.tp_methods = channel_methods,
};

static int put_integer(struct exdb_key *key, int type, PyObject *part)
{
	int overflow;
	long long value = PyLong_AsLongLongAndOverflow(part, &overflow);

	if (overflow)
		return -ERANGE;
	if (type == EXDB_INT64)
		return exdb_key_put_int64(key, value);
	return value == (int32_t)value ? exdb_key_put_int32(key, (int32_t)value) : -ERANGE;
}

static int put_string(struct exdb_key *key, int type, PyObject *part)
{
	const char *text = PyBytes_CheckExact(part) ? PyBytes_AS_STRING(part) : NULL;
	Py_ssize_t length = text ? PyBytes_GET_SIZE(part) : 0;

	if ((type == EXDB_BYTES) != (text != NULL))
		return -EINVAL;
	if (!text)
		text = PyUnicode_AsUTF8AndSize(part, &length);
	if (!text) {
		PyErr_Clear();
		return -EINVAL;
	}
	if (length > EXDB_KEY_MAX)
		return -EMSGSIZE;
	return exdb_key_put_text(key, (const uint8_t *)text, (uint32_t)length);
}

/* Add a value of a type that Python has, and no other; not 0 for those that go the long way. */
static int put_part(struct exdb_key *key, int type, PyObject *part)
{
	if ((type == EXDB_INT32 || type == EXDB_INT64) && PyLong_CheckExact(part))
		return put_integer(key, type, part);
	if (has_text(type) && (PyUnicode_CheckExact(part) || PyBytes_CheckExact(part)))
		return put_string(key, type, part);
	if (type == EXDB_FLOAT64 && PyFloat_CheckExact(part))
		return exdb_key_put_float64(key, PyFloat_AS_DOUBLE(part));
	if (type == EXDB_BOOL && PyBool_Check(part))
		return exdb_key_put_byte(key, part == Py_True);
	return -EINVAL;
}

static int put_key(const struct reader *self, struct exdb_key *key, PyObject *given)
{
	const char *types = PyBytes_AS_STRING(self->key_types);
	const Py_ssize_t n = PyBytes_GET_SIZE(self->key_types);
	Py_ssize_t i;
	int ret = 0;

	key->length = 0;
	if (!PyTuple_Check(given))
		return n == 1 ? put_part(key, types[0], given) : -EINVAL;
	if (PyTuple_GET_SIZE(given) != n)
		return -EINVAL;
	for (i = 0; i < n && !ret; i++)
		ret = put_part(key, types[i], PyTuple_GET_ITEM(given, i));
	return ret;
}

/* A stored value as Python has it; runs no code of Python. */
static PyObject *value_of(const struct exdb_vector *v, unsigned long type)
{
	const char *text = v->values;

	if (!v->valid[0])
		Py_RETURN_NONE;
	switch (type) {
	case EXDB_BOOL:
		return PyBool_FromLong(*(const uint8_t *)v->values);
	case EXDB_INT32:
	case EXDB_DATE:
		return PyLong_FromLong(*(const int32_t *)v->values);
	case EXDB_FLOAT64:
		return PyFloat_FromDouble(*(const double *)v->values);
	case EXDB_TEXT:
		return PyUnicode_DecodeUTF8(text, v->offsets[1], NULL);
	case EXDB_BYTES:
		return PyBytes_FromStringAndSize(text, v->offsets[1]);
	default:
		return PyLong_FromLongLong(*(const int64_t *)v->values);
	}
}

static int set_items(const struct reader *self, PyObject *row, PyObject **values)
{
	Py_ssize_t i;
	int ret = 0;

	for (i = 0; i < self->nr_columns && !ret; i++) {
		const struct column *column = &self->columns[i];
		PyObject *value = values[i];

		if (column->convert != Py_None && value != Py_None) {
			value = PyObject_CallOneArg(column->convert, value);
			if (!value)
				return -1;
			Py_SETREF(values[i], value);
		}
		ret = PyDict_SetItem(row, column->name, value);
	}
	return ret;
}

/*
 * All values first, and then those that Python converts: that may let others in, who read with the
 * same vectors.
 */
static int fill_row(const struct reader *self, const struct exdb_vector *vectors, PyObject *row)
{
	PyObject *values[EXDB_COLUMNS_MAX];
	Py_ssize_t i, n;
	int ret = 0;

	for (n = 0; n < self->nr_columns && !ret; n++) {
		values[n] = value_of(&vectors[n], self->columns[n].type);
		if (!values[n])
			ret = -1;
	}
	if (!ret)
		ret = set_items(self, row, values);
	for (i = 0; i < n; i++)
		Py_XDECREF(values[i]);
	return ret;
}

/* What a call of the native core's has come to, with the row that it was to make. */
static PyObject *answer(const struct reader *self, const struct exdb_vector *vectors, int ret,
			PyObject *row)
{
	if (!ret && !fill_row(self, vectors, row))
		return row;
	Py_DECREF(row);
	if (!ret)
		return NULL;
	if (ret == -ENOENT)
		Py_RETURN_NONE;
	Py_RETURN_NOTIMPLEMENTED;
}

static PyObject *read_at_once(const struct reader *self, struct exdb_txn *txn,
			      const struct exdb_key *key)
{
	struct exdb_worker *worker;
	int ret = -EAGAIN;
	PyObject *row;

	/* making it may collect garbage, which runs any code: so before the vectors are used */
	row = PyDict_New();
	if (!row)
		return NULL;
	worker = self->channel->worker;
	if (worker)
		ret = self->channel->get(worker, txn, self->layout, self->tree, key, self->vectors);
	return answer(self, self->vectors, ret, row);
}

/* The same vectors, into other memory, which lies behind them. */
static struct exdb_vector *copy_vectors(const struct reader *self)
{
	const size_t size = self->nr_columns * sizeof(*self->vectors);
	struct exdb_vector *vectors = PyMem_Malloc(size + self->room);
	uint8_t *memory = (uint8_t *)vectors + size;
	Py_ssize_t i;

	if (!vectors)
		return NULL;
	memcpy(vectors, self->vectors, size);
	memset(memory, 0, self->room);
	for (i = 0; i < self->nr_columns; i++) {
		struct exdb_vector *v = &vectors[i];

		v->values = memory + ((uint8_t *)v->values - self->memory);
		v->valid = memory + (v->valid - self->memory);
		if (v->offsets)
			v->offsets = (int32_t *)(memory + ((uint8_t *)v->offsets - self->memory));
	}
	return vectors;
}

static PyObject *read_waiting(const struct reader *self, struct exdb_worker *worker,
			      struct exdb_txn *txn, const struct exdb_key *key)
{
	struct exdb_vector *vectors = copy_vectors(self);
	PyObject *row = vectors ? PyDict_New() : PyErr_NoMemory();
	int ret;

	if (row) {
		Py_BEGIN_ALLOW_THREADS
		ret = self->channel->get(worker, txn, self->layout, self->tree, key, vectors);
		Py_END_ALLOW_THREADS
		/* what needs more room goes the long way; errors are told */
		if (ret && ret != -ENOENT && ret != -EMSGSIZE)
			Py_SETREF(row, PyLong_FromLong(ret));
		else
			row = answer(self, vectors, ret, row);
	}
	PyMem_Free(vectors);
	return row;
}

static PyObject *reader_call(PyObject *object, PyObject *const *args, size_t nargs, PyObject *names)
{
	const struct reader *self = (const struct reader *)object;
	struct exdb_worker *worker = NULL;
	struct exdb_txn *txn = NULL;
	struct exdb_key key;

	nargs = PyVectorcall_NARGS(nargs);
	if (nargs < 1 || nargs > 3 || names) {
		PyErr_SetString(PyExc_TypeError, "a reader takes a key, a transaction, and a worker");
		return NULL;
	}
	if (nargs > 1)
		txn = PyLong_AsVoidPtr(args[1]);
	if (nargs > 2)
		worker = PyLong_AsVoidPtr(args[2]);
	if (PyErr_Occurred())
		return NULL;
	if (put_key(self, &key, args[0]))
		Py_RETURN_NOTIMPLEMENTED;
	return worker ? read_waiting(self, worker, txn, &key) : read_at_once(self, txn, &key);
}

static size_t room_of(unsigned long type)
{
	/* the value, offsets and validity, each aligned to its own size */
	return (has_text(type) ? EXDB_ROW_MAX : 8) + 16;
}

static int set_columns(struct reader *self, PyObject *columns)
{
	const Py_ssize_t n = PyTuple_GET_SIZE(columns);
	uint8_t *at;
	Py_ssize_t i;

	self->columns = PyMem_Calloc(n, sizeof(*self->columns));
	self->vectors = PyMem_Calloc(n, sizeof(*self->vectors));
	if (!self->columns || !self->vectors)
		return -1;
	for (i = 0; i < n; i++) {
		struct column *column = &self->columns[i];

		if (!PyArg_ParseTuple(PyTuple_GET_ITEM(columns, i), "UkO", &column->name,
				      &column->type, &column->convert))
			return -1;
		Py_INCREF(column->name);
		Py_INCREF(column->convert);
		PyUnicode_InternInPlace(&column->name);
		self->nr_columns++;
		self->room += room_of(column->type);
	}
	self->memory = at = PyMem_Calloc(1, self->room);
	for (i = 0; at && i < n; i++) {
		const unsigned long type = self->columns[i].type;
		const size_t size = room_of(type) - 16;

		self->vectors[i] = (struct exdb_vector){
			.values = at,
			.offsets = has_text(type) ? (int32_t *)(at + size) : NULL,
			.valid = at + size + 8,
			.capacity = has_text(type) ? EXDB_ROW_MAX : 0,
		};
		at += room_of(type);
	}
	return at ? 0 : -1;
}

static int reader_init(struct reader *self, PyObject *args, PyObject *kwargs)
{
	unsigned long long layout;
	PyObject *columns;

	(void)kwargs;
	if (self->channel) {
		PyErr_SetString(PyExc_TypeError, "a reader is made once");
		return -1;
	}
	if (!PyArg_ParseTuple(args, "O!KOISO!", &channel_type, &self->channel, &layout, &self->owner,
			      &self->tree, &self->key_types, &PyTuple_Type, &columns)) {
		self->channel = NULL;
		self->owner = self->key_types = NULL;
		return -1;
	}
	Py_INCREF(self->channel);
	Py_INCREF(self->owner);
	Py_INCREF(self->key_types);
	self->layout = (const struct exdb_layout *)(uintptr_t)layout;
	if (PyTuple_GET_SIZE(columns) <= EXDB_COLUMNS_MAX && !set_columns(self, columns)) {
		self->call = reader_call;
		return 0;
	}
	if (!PyErr_Occurred())
		PyErr_NoMemory();
	return -1;
}

static void reader_dealloc(struct reader *self)
{
	Py_ssize_t i;

	for (i = 0; i < self->nr_columns; i++) {
		Py_DECREF(self->columns[i].name);
		Py_DECREF(self->columns[i].convert);
	}
	PyMem_Free(self->columns);
	PyMem_Free(self->vectors);
	PyMem_Free(self->memory);
	Py_XDECREF(self->channel);
	Py_XDECREF(self->owner);
	Py_XDECREF(self->key_types);
	Py_TYPE(self)->tp_free(self);
}

static PyTypeObject reader_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "exmapdb._reader.Reader",
	.tp_doc = "Reads single rows of one table: called with a key and the addresses of a transaction and of a worker, "
		  "both of which may be 0, it returns the row, None, NotImplemented, or the error of the native core.",
	.tp_basicsize = sizeof(struct reader),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
	.tp_new = PyType_GenericNew,
	.tp_init = (initproc)reader_init,
	.tp_dealloc = (destructor)reader_dealloc,
	.tp_call = PyVectorcall_Call,
	.tp_vectorcall_offset = offsetof(struct reader, call),
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "exmapdb._reader",
	.m_doc = "Single rows of resident pages, for Table.get.",
	.m_size = -1,
};

PyMODINIT_FUNC PyInit__reader(void)
{
	PyObject *made = PyModule_Create(&module);

	if (!made || PyModule_AddType(made, &channel_type) || PyModule_AddType(made, &reader_type)) {
		Py_XDECREF(made);
		return NULL;
	}
	return made;
}
