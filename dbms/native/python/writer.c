// SPDX-License-Identifier: MIT
/*
 * exmapdb._writer: single rows from Python, without a detour through columns.
 *
 * A Writer takes a row as a dict, points the native core at the values where they are, and lets go of
 * the GIL for the call.  For everything that it does not know (other types than Python's own, values out
 * of range, nulls where none may be, unknown columns) it returns NotImplemented, and who called it goes
 * the long way, whose conversions and errors are the ones that count.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "../exdb.h"

typedef int (*insert_fn)(struct exdb_worker *w, struct exdb_txn *txn,
			 const struct exdb_layout *layout, uint32_t tree,
			 const struct exdb_vector *columns, uint64_t rows, bool replace,
			 uint64_t *row);

/* A column of the table; @convert is None, or makes what is stored of a value. */
struct column {
	PyObject *name;
	PyObject *convert;
	unsigned long type;
	int nullable;
};

/**
 * struct writer - writes rows of one table
 * @call: for Python's vectorcall
 * @insert: of the native core
 * @layout: of the native core
 * @owner: keeps it
 * @tree: with the table's rows
 * @nr_columns: length of @columns
 * @columns: in their order
 */
struct writer {
	PyObject_HEAD
	vectorcallfunc call;
	insert_fn insert;
	const struct exdb_layout *layout;
	PyObject *owner;
	uint32_t tree;
	Py_ssize_t nr_columns;
	struct column *columns;
};

/* One value of a row: @held keeps the memory that the vector points to, if it is Python's. */
struct cell {
	union {
		int64_t number64;
		int32_t number32;
		double real;
		uint8_t truth;
	};
	int32_t offsets[2];
	uint8_t valid;
	PyObject *held;
};

static bool has_text(unsigned long type)
{
	return type == EXDB_TEXT || type == EXDB_BYTES;
}

static bool put_number(struct cell *cell, unsigned long type, PyObject *value)
{
	int overflow;
	long long number;

	if (!PyLong_CheckExact(value))
		return false;
	number = PyLong_AsLongLongAndOverflow(value, &overflow);
	if (overflow)
		return false;
	if (type != EXDB_INT32 && type != EXDB_DATE) {
		cell->number64 = number;
		return true;
	}
	cell->number32 = (int32_t)number;
	return number == cell->number32;
}

static bool put_text(struct cell *cell, struct exdb_vector *vector, unsigned long type,
		     PyObject *value)
{
	Py_ssize_t length;

	if (type == EXDB_BYTES && PyBytes_CheckExact(value)) {
		vector->values = PyBytes_AS_STRING(value);
		length = PyBytes_GET_SIZE(value);
	} else if (type == EXDB_TEXT && PyUnicode_CheckExact(value)) {
		vector->values = (void *)PyUnicode_AsUTF8AndSize(value, &length);
		if (!vector->values)
			PyErr_Clear();
	} else {
		vector->values = NULL;
	}
	if (!vector->values || length > INT32_MAX)
		return false;
	cell->offsets[1] = (int32_t)length;
	return true;
}

/* @value is the caller's, and lives as long as the cell. */
static bool put_value(struct cell *cell, struct exdb_vector *vector, unsigned long type,
		      PyObject *value)
{
	switch (type) {
	case EXDB_TEXT:
	case EXDB_BYTES:
		return put_text(cell, vector, type, value);
	case EXDB_FLOAT64:
		cell->real = PyFloat_CheckExact(value) ? PyFloat_AS_DOUBLE(value) : 0;
		return PyFloat_CheckExact(value);
	case EXDB_BOOL:
		cell->truth = value == Py_True;
		return PyBool_Check(value);
	default:
		return put_number(cell, type, value);
	}
}

static bool put_cell(const struct column *column, struct cell *cell, struct exdb_vector *vector)
{
	*vector = (struct exdb_vector){
		.values = &cell->number64,
		.valid = &cell->valid,
		.offsets = has_text(column->type) ? cell->offsets : NULL,
	};
	if (!cell->held || cell->held == Py_None)
		return column->nullable;
	cell->valid = 1;
	if (column->convert != Py_None) {
		PyObject *stored = PyObject_CallOneArg(column->convert, cell->held);

		if (!stored) {
			PyErr_Clear();
			return false;
		}
		Py_SETREF(cell->held, stored);
	}
	return put_value(cell, vector, column->type, cell->held);
}

/* All of the row's values, and nothing of it that is no column. */
static bool take_row(const struct writer *self, PyObject *row, struct cell *cells)
{
	Py_ssize_t i, known = 0;

	if (!PyDict_CheckExact(row))
		return false;
	for (i = 0; i < self->nr_columns; i++) {
		PyObject *value = PyDict_GetItemWithError(row, self->columns[i].name);

		if (!value && PyErr_Occurred()) {
			PyErr_Clear();
			return false;
		}
		Py_XINCREF(value);
		cells[i].held = value;
		known += value != NULL;
	}
	return known == PyDict_GET_SIZE(row);
}

static PyObject *write_row(const struct writer *self, struct exdb_worker *worker,
			   struct exdb_txn *txn, PyObject *row, bool replace)
{
	struct exdb_vector vectors[EXDB_COLUMNS_MAX];
	struct cell cells[EXDB_COLUMNS_MAX];
	Py_ssize_t i, n = self->nr_columns;
	uint64_t failed;
	bool known;
	int ret = 0;

	memset(cells, 0, n * sizeof(*cells));
	known = take_row(self, row, cells);
	for (i = 0; i < n && known; i++)
		known = put_cell(&self->columns[i], &cells[i], &vectors[i]);
	if (known) {
		Py_BEGIN_ALLOW_THREADS
		ret = self->insert(worker, txn, self->layout, self->tree, vectors, 1, replace,
				   &failed);
		Py_END_ALLOW_THREADS
	}
	for (i = 0; i < n; i++)
		Py_XDECREF(cells[i].held);
	if (!known)
		Py_RETURN_NOTIMPLEMENTED;
	return PyLong_FromLong(ret);
}

static PyObject *writer_call(PyObject *object, PyObject *const *args, size_t nargs, PyObject *names)
{
	struct exdb_worker *worker;
	struct exdb_txn *txn;
	int replace;

	if (PyVectorcall_NARGS(nargs) != 4 || names) {
		PyErr_SetString(PyExc_TypeError, "a writer takes a worker, a transaction, a row, and a bool");
		return NULL;
	}
	worker = PyLong_AsVoidPtr(args[0]);
	txn = PyLong_AsVoidPtr(args[1]);
	replace = PyObject_IsTrue(args[3]);
	if (PyErr_Occurred())
		return NULL;
	if (!worker) {
		PyErr_SetString(PyExc_ValueError, "no worker");
		return NULL;
	}
	return write_row((const struct writer *)object, worker, txn, args[2], replace);
}

static int set_columns(struct writer *self, PyObject *columns)
{
	const Py_ssize_t n = PyTuple_GET_SIZE(columns);
	Py_ssize_t i;

	if (n > EXDB_COLUMNS_MAX) {
		PyErr_SetString(PyExc_ValueError, "too many columns");
		return -1;
	}
	self->columns = PyMem_Calloc(n, sizeof(*self->columns));
	if (!self->columns) {
		PyErr_NoMemory();
		return -1;
	}
	for (i = 0; i < n; i++) {
		struct column *column = &self->columns[i];

		if (!PyArg_ParseTuple(PyTuple_GET_ITEM(columns, i), "UkOp", &column->name,
				      &column->type, &column->convert, &column->nullable))
			return -1;
		Py_INCREF(column->name);
		Py_INCREF(column->convert);
		PyUnicode_InternInPlace(&column->name);
		self->nr_columns++;
	}
	return 0;
}

static int writer_init(struct writer *self, PyObject *args, PyObject *kwargs)
{
	unsigned long long insert, layout;
	PyObject *owner, *columns;
	unsigned int tree;

	(void)kwargs;
	if (self->call) {
		PyErr_SetString(PyExc_TypeError, "a writer is made once");
		return -1;
	}
	if (!PyArg_ParseTuple(args, "KKOIO!", &insert, &layout, &owner, &tree, &PyTuple_Type, &columns))
		return -1;
	self->insert = (insert_fn)(uintptr_t)insert;
	self->layout = (const struct exdb_layout *)(uintptr_t)layout;
	Py_XSETREF(self->owner, Py_NewRef(owner));
	self->tree = tree;
	if (set_columns(self, columns))
		return -1;
	self->call = writer_call;
	return 0;
}

static void writer_dealloc(struct writer *self)
{
	Py_ssize_t i;

	for (i = 0; i < self->nr_columns; i++) {
		Py_DECREF(self->columns[i].name);
		Py_DECREF(self->columns[i].convert);
	}
	PyMem_Free(self->columns);
	Py_XDECREF(self->owner);
	Py_TYPE(self)->tp_free(self);
}

static PyTypeObject writer_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "exmapdb._writer.Writer",
	.tp_doc = "Writes single rows of one table: called with the addresses of a worker and of a transaction, a row, "
		  "and whether to replace, it returns what the native core says, or NotImplemented.",
	.tp_basicsize = sizeof(struct writer),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
	.tp_new = PyType_GenericNew,
	.tp_init = (initproc)writer_init,
	.tp_dealloc = (destructor)writer_dealloc,
	.tp_call = PyVectorcall_Call,
	.tp_vectorcall_offset = offsetof(struct writer, call),
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "exmapdb._writer",
	.m_doc = "Single rows, for Table.insert.",
	.m_size = -1,
};

PyMODINIT_FUNC PyInit__writer(void)
{
	PyObject *made = PyModule_Create(&module);

	if (!made || PyModule_AddType(made, &writer_type)) {
		Py_XDECREF(made);
		return NULL;
	}
	return made;
}
